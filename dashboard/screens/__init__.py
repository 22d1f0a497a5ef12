"""One script per page: widgets, calls to `dashboard.views`, drawing."""
