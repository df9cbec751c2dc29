"""From configuration to objects: what a run is composed of, checked and built."""
