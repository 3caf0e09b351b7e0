"""Commands of the program `palette`, one module each; heavy imports inside."""
