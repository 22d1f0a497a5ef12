"""What the pages show: a store in, tables and figures out, no Streamlit."""
