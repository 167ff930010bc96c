"""The prediction service without Ray: what is served, how it answers, and the web application around it."""
