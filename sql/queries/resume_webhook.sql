-- Has a webhook deliver again at once, whatever it was that kept it.
-- $1 its id
select bridge.resume_webhook($1);
