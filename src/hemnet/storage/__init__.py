"""Files on disk: whole or absent, tables, JSON, locks, downloads."""
