-- Rights: PUBLIC has none. pgbridge init grants bridge_service and bridge_reader what they need, from
-- the list in sql/queries/rights.sql.

revoke all on schema bridge from public;
-- PostgreSQL lets PUBLIC execute every new function. A migration that creates functions must end
-- with this statement.
revoke execute on all functions in schema bridge from public;
