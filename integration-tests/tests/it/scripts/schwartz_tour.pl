# Uses the tables at the DBI source $ARGV[0] as the original library does. $ARGV[1] is what to do:
#   insert FUNC ARG [UNIQKEY]  insert a job, print its id
#   work FUNC                  complete all jobs of FUNC, print each argument
use strict;
use warnings;
use TheSchwartz;

my ($dsn, $what, $func, @rest) = @ARGV;
my $client = TheSchwartz->new(databases => [ { dsn => $dsn, user => 'root', pass => '' } ]);

if ($what eq 'insert') {
    my $job = TheSchwartz::Job->new(funcname => $func, arg => $rest[0], (defined $rest[1] ? (uniqkey => $rest[1]) : ()));
    my $handle = $client->insert($job);
    print defined $handle ? $handle->jobid : 'refused', "\n";
}
else {
    no strict 'refs';
    @{"${func}::ISA"} = ('TheSchwartz::Worker');
    *{"${func}::work"} = sub {
        my ($class, $job) = @_;
        print ref $job->arg ? join(',', @{ $job->arg }) : $job->arg, "\n";
        $job->completed;
    };
    require TheSchwartz::Worker;
    $client->can_do($func);
    $client->work_until_done;
}
