"""One script per page: widgets, calls to `dashboard.page_data`, drawing."""
