-- What makes new transactions read-only. No row: nothing does.
select source
from pg_catalog.pg_settings
where name = 'default_transaction_read_only' and setting = 'on';
