"""What a transaction decides on beside rows of jobs, and how two of them do not decide at the same time."""
