"""The process that runs: its parts, its workers, its supervisor."""
