"""Ages and delays of a single host: time that was seen to pass, whatever its clock is set to."""
