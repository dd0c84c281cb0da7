# Walks Gearman::Client and Gearman::Worker against the server at $ARGV[0]; the last line is `ok`.
use strict;
use warnings;
use Gearman::Client;
use Gearman::Task;
use Gearman::Worker;

my $server = shift;
$SIG{ALRM} = sub { die "took too long\n" };
alarm 45;

my $pid = fork();
defined $pid or die "fork: $!";
if (!$pid) {
    my $worker = Gearman::Worker->new(job_servers => [$server]);
    my $done = 0;
    $worker->register_function(upper => sub { $done++; return uc $_[0]->arg });
    $worker->register_function(slow => sub {
        my $job = shift;
        $job->set_status($_, 4) for 1 .. 3;
        $done++;
        return 'done ' . $job->arg;
    });
    $worker->register_function(broken => sub { $done++; return undef });
    $worker->register_function(finish => sub { $done = -1; return 'bye' });
    $worker->work(stop_if => sub { $done < 0 }) while $done >= 0;
    exit 0;
}

my $client = Gearman::Client->new(job_servers => [$server]);
sub same { my ($got, $want, $what) = @_; (defined $got && $got eq $want) or die "$what: want $want, got " . ($got // 'nothing') . "\n" }

my $result = $client->do_task(upper => 'ibex');
same($$result, 'IBEX', 'do_task');
my $blob = join '', map { chr } 0 .. 255;
$result = $client->do_task(upper => $blob x 1000);
same(length $$result, 256_000, 'a big workload');

my @status;
$result = $client->do_task(slow => 'job', { on_status => sub { push @status, "$_[0]/$_[1]" } });
same($$result, 'done job', 'a job with status');
same(join(' ', @status), '1/4 2/4 3/4', 'status updates');

my $failed = 0;
my $tasks = $client->new_task_set;
my %seen;
$tasks->add_task(upper => "item $_", { on_complete => sub { $seen{ ${ $_[0] } } = 1 } }) for 1 .. 50;
$tasks->add_task(broken => 'x', { on_fail => sub { $failed++ } });
$tasks->wait;
same(scalar keys %seen, 50, 'a set of tasks');
same($failed, 1, 'a failing task');

my $handle = $client->dispatch_background(upper => 'later', { uniq => 'only-once' });
defined $handle or die "no handle\n";
my $deadline = time + 20;
while (1) {
    my $status = $client->get_status($handle);
    last if !$status->known;
    die "the background job stays\n" if time > $deadline;
    select undef, undef, undef, 0.01;
}
$result = $client->do_task(finish => 'now');
same($$result, 'bye', 'finish');
kill TERM => $pid;
waitpid $pid, 0;
print "ok\n";
