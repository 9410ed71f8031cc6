"""What came out: the store, the statistics, the tables and the paper's numbers. Never imports torch."""
