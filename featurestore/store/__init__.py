"""Store → DataSet → View: what users hold."""
