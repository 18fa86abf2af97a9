"""What people read after a run: the performance report and report.html."""
