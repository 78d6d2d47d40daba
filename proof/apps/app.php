<?php
$ms = (int)($_GET['ms'] ?? 0);
header('Content-Type: text/plain');
if ($_SERVER['SCRIPT_NAME'] === '/stream') {
    for (; $ms > 0; $ms -= 200) {
        echo "piece\n";
        flush();
        usleep(200000);
    }
} else {
    usleep($ms * 1000);
}
echo "done\n";
