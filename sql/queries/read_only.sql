-- The source of default_transaction_read_only, if it is on. No row if it is off.
select source
from pg_catalog.pg_settings
where name = 'default_transaction_read_only' and setting = 'on';
