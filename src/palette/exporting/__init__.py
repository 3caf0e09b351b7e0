"""What `palette export` hands over: a finished run's adapters, routes and certificate."""
