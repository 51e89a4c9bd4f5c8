-- Several statements that happen together or not at all.
begin
