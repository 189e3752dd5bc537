-- Records that a rule was paused or resumed, with the function that now runs.
-- %(name)s    the rule
-- %(paused)s  whether it is paused
update bridge.capture_rules
set paused_at = case when %(paused)s then clock_timestamp() end,
    function_definition = pg_get_functiondef(to_regproc(function_name))
where name = %(name)s
returning name;
