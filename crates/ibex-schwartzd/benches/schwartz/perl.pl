# The Perl library's part of the benchmark. Arguments: case, DBI string, user, seconds, job server. Prints operations, seconds and what it threw, or
# answers lines.
use strict;
use warnings;
use DBI;
use Time::HiRes qw(time);
use TheSchwartz;

package Bench;
use base 'TheSchwartz::Worker';
our $tells = 0;
sub work { printf "%.6f\n", Time::HiRes::time() if $tells; $_[1]->completed }

package main;
my ($case, $dsn, $user, $last, $server) = @ARGV;
$| = 1;
# With a driver kept open: without it every call connects anew.
my $client = TheSchwartz->new(databases => [{ dsn => $dsn, user => $user, pass => '' }], driver_cache_expiration => 3600);
sub job { TheSchwartz::Job->new(funcname => 'Bench', arg => 'x' x 100) }

my %steps = (
    insert => sub { $client->insert(job()); 1 },
    insert_jobs => sub { $client->insert_jobs(map { job() } 1 .. 100); 100 },
    work => sub { $client->work_once ? 1 : 0 },
    # On jobs that are there already, which other workers take, too.
    share => sub { $client->work_once ? 1 : 0 },
);
if ($case eq 'foreign') {
    while (<STDIN>) {
        $client->insert(job());
        printf "%.6f\n", time;
    }
    exit;
}
$client->can_do('Bench');
if ($case eq 'poked') {
    $Bench::tells = 1;
    require Gearman::Worker;
    my $worker = Gearman::Worker->new(job_servers => [$server]);
    $worker->register_function(ts_poke => sub { $client->grab_and_work_on($_[0]->arg) });
    print "ready\n";
    $worker->work while 1;
}
$client->insert_jobs(map { job() } 1 .. 500) for $case eq 'work' ? 1 .. 20 : ();
my ($step, $done, $thrown, $start) = ($steps{$case}, 0, 0, time);
while (time - $start < $last) {
    my $now = eval { $step->() };
    $thrown++ unless defined $now;
    $done += $now || 0;
}
printf "%d %.6f %d\n", $done, time - $start, $thrown;
