"""The chapters of the report: functions that return a chapter, or None if the runs have no data for it."""
