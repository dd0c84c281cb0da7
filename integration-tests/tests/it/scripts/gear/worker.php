<?php
// A worker for the server at $argv[1]:$argv[2] that does $argv[3] jobs and ends.
$worker = new GearmanWorker();
$worker->addServer($argv[1], (int) $argv[2]);
$worker->addFunction('reverse', fn ($job) => strrev($job->workload()));
$worker->addFunction('steps', function ($job) {
    for ($i = 1; $i <= 3; $i++) {
        $job->sendStatus($i, 3);
        $job->sendData("part $i;");
    }
    return 'whole';
});
$worker->addFunction('breaks', function ($job) {
    $job->sendFail();
});
for ($i = 0; $i < (int) $argv[3]; $i++) {
    $worker->work();
}
