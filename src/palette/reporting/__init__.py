"""What people review: metrics, a table of members, samples, pictures and one page, from a run."""
