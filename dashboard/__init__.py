"""A dashboard over a store: Streamlit pages, and the plain functions behind them.

`dashboard.launch.launch` starts it.
"""
