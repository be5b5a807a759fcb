"""Lists of jobs: filters, sort orders and text search, turned into bounded index scans."""
