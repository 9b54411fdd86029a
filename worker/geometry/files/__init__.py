"""One module per file format. Each writes bytes and knows nothing of jobs, folders or other formats."""
