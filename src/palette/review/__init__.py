"""What changed between two commits: read from git and DVC, compared, and told as Markdown."""
