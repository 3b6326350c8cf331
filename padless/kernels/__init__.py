"""Numbers without symbols: functions of packed values and an index."""
