"""Many runs: each in a process and a directory of its own, found again by what it changes."""
