"""Files that are whole or absent, locks, tables, downloads."""
