DROP FUNCTION partitions.copy_grants(regclass, regclass);
