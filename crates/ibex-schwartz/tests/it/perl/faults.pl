# Shows one fault of the Perl library and prints what came of it, one word and details. Arguments: case, user, DBI strings.
use strict;
use warnings;

our $on_sleep;
BEGIN { *CORE::GLOBAL::sleep = sub { $on_sleep ? $on_sleep->(@_) : CORE::sleep($_[0]) } }

use DBI;
use TheSchwartz;

package Keeps;
use base 'TheSchwartz::Worker';
sub keep_exit_status_for { 1000 }
sub work { $_[1]->completed }

package Long;
use base 'TheSchwartz::Worker';
sub max_retries { 3 }
sub work { $_[1]->failed('x' x 300) }

package Replaces;
use base 'TheSchwartz::Worker';
sub keep_exit_status_for { 1000 }
sub work { $_[1]->replace_with(TheSchwartz::Job->new(funcname => 'Next', arg => 'n', uniqkey => 'contested')) }

package Fails;
use base 'TheSchwartz::Worker';
sub max_retries { 2 }
sub work { $_[1]->failed('no') }

package main;
my ($case, $user, @dsns) = @ARGV;
$| = 1;

sub client {
    my $client = TheSchwartz->new(databases => [map { { dsn => $_, user => $user, pass => '' } } @dsns]);
    $client->can_do($_) for @_;
    return $client;
}
sub dbh { DBI->connect($dsns[0], $user, '', { RaiseError => 1, PrintError => 0, AutoCommit => 1 }) }
sub rival_dbh {
    my $dbh = dbh();
    $dbh->do('SET SESSION innodb_lock_wait_timeout = 60');
    $dbh->do('SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED');
    my ($next) = $dbh->selectrow_array("SELECT funcid FROM funcmap WHERE funcname = 'Next'");
    $dbh->begin_work;
    # More changes than the worker makes, so that the server chooses the worker's transaction.
    $dbh->do("INSERT INTO error (error_time, jobid, message, funcid) VALUES (1, 0, 'ballast', 1)") for 1 .. 50;
    return ($dbh, $next);
}
sub contest {
    my ($dbh, $next) = @_;
    $dbh->do("INSERT INTO job (funcid, arg, uniqkey, insert_time, run_after, grabbed_until) VALUES ($next, 'r', 'contested', 1, 1, 0)");
}
sub job { TheSchwartz::Job->new(funcname => shift, arg => 'x', @_) }

my %cases = (
    # A failure whose text is too long for the column: does the worker live, was the failure counted?
    long => sub {
        my $client = client('Long');
        my $handle = $client->insert(job('Long'));
        my $lived = eval { $client->work_once; 1 };
        print $lived ? 'lived' : 'died', ' ', $handle->failures, ' ', $handle->as_string, "\n";
    },
    # A job whose exit status is there already.
    complete => sub {
        my $client = client('Keeps');
        my $lived = eval { $client->work_once; 1 };
        print $lived ? 'lived' : 'died', "\n";
    },
    # The first worker's lease runs out, a second takes the job, the first completes it.
    late => sub {
        my $client = client('Keeps');
        $client->insert(job('Keeps'));
        my $first = $client->find_job_for_workers;
        dbh()->do('UPDATE job SET grabbed_until = 1');
        my $second = client('Keeps')->find_job_for_workers;
        $first->completed;
        print $first->jobid == $second->jobid && !$second->handle->is_pending ? 'removed' : 'kept', "\n";
    },
    # One key, two databases.
    key => sub {
        print scalar(grep { defined client()->insert(job('F', uniqkey => 'k')) } 1 .. 60), "\n";
    },
    # Lists of jobs with one of two databases down.
    list_down => sub {
        my $died = 0;
        for (1 .. 40) { eval { client()->insert_jobs(job('F'), job('F')); 1 } or $died++ }
        print "$died\n";
    },
    # One argument beyond the server's packet size, then a small one.
    packet => sub {
        my $client = client();
        $client->insert(job('F'));
        my $large = $client->insert(TheSchwartz::Job->new(funcname => 'F', arg => 'x' x 2_000_000));
        my $small = $client->insert(job('F'));
        print defined $large ? 'stored' : 'refused', ' ', defined $small ? 'stored' : 'refused', "\n";
    },
    # No database at all.
    down => sub {
        my $answer = eval { client()->insert(job('F')) };
        print defined $answer ? 'handle' : 'nothing', ' ', $@ ? 'reason' : 'no-reason', "\n";
    },
    # A function that another program registers after this one read the map.
    later => sub {
        my $client = client();
        $client->insert(job('Early'));
        my $handle = client()->insert(job('Later'));
        my $found = eval { $client->lookup_job($handle->as_string) };
        print $found ? 'found' : 'lost', ' ', $handle->as_string, "\n";
    },
    # A name that differs by case from a registered one.
    case => sub {
        client()->insert(job('Foo'));
        print defined client()->insert(job('FOO')) ? 'stored' : 'refused', "\n";
    },
    # The other side of a deadlock with the original, which inserts before it deletes: holds the only job's row, waits until the contested key
    # was inserted, wants it, too.
    rival => sub {
        my ($dbh, $next) = rival_dbh();
        $dbh->selectall_arrayref("SELECT jobid FROM job WHERE arg = 'x' FOR UPDATE");
        print "ready\n";
        until ($dbh->selectrow_array("SELECT COUNT(*) FROM job WHERE uniqkey = 'contested'")) { select undef, undef, undef, 0.01 }
        eval { contest($dbh, $next) };
        $dbh->rollback;
    },
    # The same with ours, which deletes before it inserts: holds the contested key, waits until the job was deleted, wants its row.
    rival_of_ours => sub {
        my ($dbh, $next) = rival_dbh();
        my ($jobid) = $dbh->selectrow_array("SELECT jobid FROM job WHERE arg = 'x'");
        contest($dbh, $next);
        print "ready\n";
        while ($dbh->selectrow_array("SELECT COUNT(*) FROM job WHERE jobid = $jobid")) { select undef, undef, undef, 0.01 }
        eval { $dbh->selectall_arrayref("SELECT jobid FROM job WHERE jobid = $jobid FOR UPDATE"); print "won\n"; 1 } or print "lost\n";
        $dbh->rollback;
    },
    # A worker that meets the rival.
    deadlock => sub {
        my $client = client('Replaces');
        my $job = $client->find_job_for_workers or die 'no job';
        print "grabbed\n";
        my $go = <STDIN>;
        my $lived = eval { Replaces->work_safely($job); 1 };
        print $lived ? 'lived ' : 'died ', $job->handle->exit_status // 'none', ' ', join('|', $job->handle->failure_log), "\n";
    },
    # Listing by a coalescing value.
    coalesce => sub {
        my $client = client();
        $client->insert(job('F', coalesce => $_)) for qw(a b);
        print scalar($client->list_jobs({ funcname => 'F', coalesce => 'a' })), "\n";
    },
    # A job inserted right after an idle worker looked.
    poll => sub {
        my $client = client('Keeps');
        my ($slept, $handle) = (0);
        $on_sleep = sub {
            die "over\n" if $handle && !$handle->is_pending;
            $handle ||= client()->insert(job('Keeps'));
            $slept += $_[0];
        };
        eval { $client->work; };
        print "$slept\n";
    },
    # Three runs are allowed; a week passes between them.
    week => sub {
        my $client = client('Fails');
        my $handle = $client->insert(job('Fails'));
        my $runs = 0;
        for (1 .. 10) {
            $client->work_once and $runs++;
            dbh()->do('UPDATE error SET error_time = 1');
        }
        print $runs, ' ', $handle->is_pending ? 'pending' : 'over', "\n";
    },
);
($cases{$case} or die "no case $case")->();
