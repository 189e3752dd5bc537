-- Settles one attempt of which settle rejects something. Returns retry, success, failed or dead letter; null
-- if the lease is lost.
-- $1 delivery, $2 lease token, $3 attempt number, $4 and $5 start and end, $6 outcome, $7 seconds until the
-- next attempt, $8 response status, $9 response body, $10 kind of failure, $11 error, $12 reason
select bridge.settle_apart($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) as result;
