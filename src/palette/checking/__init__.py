"""A second opinion on portfolio.json: nothing here is shared with what wrote it but the schema."""
