"""palette: how few adapters serve all our users, and what does each user lose?"""
