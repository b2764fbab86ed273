"""The database: schema, statements, transactions."""
