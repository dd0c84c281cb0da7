# Works everything that is ready with the Perl library; a job's argument says how it ends. Prints `end<TAB>handle<TAB>detail`.
# Arguments: DBI string, user, function.
use strict;
use warnings;
use TheSchwartz;

package Ends;
use base 'TheSchwartz::Worker';
sub max_retries { 1 }
sub keep_exit_status_for { 1000 }
sub grab_for { 60 }
sub work {
    my ($class, $job) = @_;
    my $arg = $job->arg;
    my $how = ref $arg eq 'HASH' ? $arg->{end} : ref $arg eq 'ARRAY' ? $arg->[0] : $arg;
    my $detail = ref $arg eq 'HASH' && ref $arg->{list} eq 'ARRAY' ? join(',', map { defined $_ ? $_ : 'undef' } @{ $arg->{list} }) : '';
    utf8::encode($detail);
    print "$how\t", $job->handle->as_string, "\t$detail\n";
    return $job->completed if $how eq 'complete';
    return $job->failed('perl failed', 7) if $how eq 'fail';
    return $job->permanent_failure('perl gave up', 8) if $how eq 'permanent';
    return $job->declined if $how eq 'decline';
    return $job->replace_with(TheSchwartz::Job->new(funcname => 'FromPerl', arg => { from => 'perl' })) if $how eq 'replace';
    die "died in perl\n" if $how eq 'die';
    return;
}

package main;
my ($dsn, $user, $func) = @ARGV;
no strict 'refs';
@{"${func}::ISA"} = ('Ends');
my $client = TheSchwartz->new(databases => [{ dsn => $dsn, user => $user, pass => '' }]);
$client->can_do($func);
$client->work_until_done;
