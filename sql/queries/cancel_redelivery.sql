-- Cancels the running redelivery of a webhook, if there is one.
-- $1 webhook id
select bridge.cancel_redelivery($1) as was_running;
