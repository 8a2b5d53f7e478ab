"""Finds personal data and secrets in texts, and replaces personal data by placeholders."""
