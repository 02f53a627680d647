"""`cxr-edge`: one thin file for each subcommand. Parse, call the library, print, exit code."""
