# The Perl library's part of the benchmark. Arguments: case, DBI string, seconds. Prints operations and seconds, or answers lines.
use strict;
use warnings;
use DBI;
use Time::HiRes qw(time);
use TheSchwartz;

package Bench;
use base 'TheSchwartz::Worker';
sub work { $_[1]->completed }

package main;
my ($case, $dsn, $seconds) = @ARGV;
$| = 1;
# With a driver kept open: without it every call connects anew.
my $client = TheSchwartz->new(databases => [{ dsn => $dsn, user => '', pass => '' }], driver_cache_expiration => 3600);
sub job { TheSchwartz::Job->new(funcname => 'Bench', arg => 'x' x 100) }

my %steps = (
    insert => sub { $client->insert(job()); 1 },
    insert_jobs => sub { $client->insert_jobs(map { job() } 1 .. 100); 100 },
    work => sub { $client->work_once ? 1 : 0 },
);
if ($case eq 'foreign') {
    while (<STDIN>) {
        $client->insert(job());
        printf "%.6f\n", time;
    }
    exit;
}
$client->can_do('Bench');
$client->insert_jobs(map { job() } 1 .. 500) for $case eq 'work' ? 1 .. 20 : ();
my ($step, $done, $start) = ($steps{$case}, 0, time);
$done += $step->() while time - $start < $seconds;
printf "%d %.6f\n", $done, time - $start;
