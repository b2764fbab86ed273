"""The database: opened, migrated, read and written; one daemon to a folder."""
