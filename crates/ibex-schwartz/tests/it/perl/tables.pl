# Makes tables from statements on standard input, one a line, as the original's loaders do. Arguments: DBI string, user, text to append.
use strict;
use warnings;
use DBI;

my ($dsn, $user, $append) = @ARGV;
my $dbh = DBI->connect($dsn, $user, '', { RaiseError => 1, PrintError => 0 });
while (my $statement = <STDIN>) {
    chomp $statement;
    $dbh->do($statement . ($statement =~ /^CREATE TABLE/ ? $append : ''));
}
