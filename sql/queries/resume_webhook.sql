-- Makes a webhook deliver again, whether it was paused, failing, off or disabled.
-- $1 webhook id
select bridge.resume_webhook($1);
