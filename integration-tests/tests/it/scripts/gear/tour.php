<?php
// Walks php-gearman's client against the server at $argv[1]:$argv[2], where gearman_worker.php works.
function same($got, $want, $what) {
    if ($got !== $want) {
        fwrite(STDERR, "$what: want " . var_export($want, true) . ", got " . var_export($got, true) . "\n");
        exit(1);
    }
}
$client = new GearmanClient();
$client->addServer($argv[1], (int) $argv[2]);
$client->setTimeout(30000);
same($client->ping('hello'), true, 'ping');
same($client->doNormal('reverse', 'xebi'), 'ibex', 'doNormal');
same($client->doHigh('reverse', 'ab'), 'ba', 'doHigh');
same($client->doLow('reverse', 'cd', 'unique-low'), 'dc', 'doLow');
$data = '';
$statuses = 0;
$client->setDataCallback(function ($task) use (&$data) { $data .= $task->data(); });
$client->setStatusCallback(function () use (&$statuses) { $statuses++; });
$client->addTask('steps', 'go');
same($client->runTasks(), true, 'runTasks with data');
same($data, 'part 1;part 2;part 3;', 'data');
same($statuses, 3, 'status');
@$client->doNormal('breaks', 'go');
same($client->returnCode(), GEARMAN_WORK_FAIL, 'a failing job');
$done = [];
$client->setCompleteCallback(function ($task) use (&$done) { $done[] = $task->data(); });
foreach (['one', 'two', 'three'] as $word) {
    $client->addTask('reverse', $word);
}
same($client->runTasks(), true, 'runTasks');
sort($done);
same($done, ['eerht', 'eno', 'owt'], 'tasks');
$handle = $client->doBackground('reverse', 'later');
$deadline = time() + 20;
do {
    [$known] = $client->jobStatus($handle);
    if (time() > $deadline) { fwrite(STDERR, "the background job stays\n"); exit(1); }
    usleep(5000);
} while ($known);
echo "ok\n";
