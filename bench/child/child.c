// The child of a measurement: small and fast, so that what is measured is the
// init. It writes times of CLOCK_MONOTONIC into a file that it shares with the
// measuring program.
//
//	child signals FILE    listens on a port and counts signals; SIGUSR2 ends it
//	child orphans FILE N  leaves N orphans behind, and waits for their end
//	child stage COMMAND…  executes it as a container's first process: run in new
//	                      PID and mount namespaces, it mounts a /proc of theirs

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Shared with bench/shared.go.
static struct shared {
	volatile uint64_t pid;   // set when ready
	volatile uint64_t done;  // when SIGUSR2 came, or the last orphan was gone
	volatile uint64_t begun; // when the first orphan was made
	volatile uint64_t signals[65], last[65];
} *shared;

static uint64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void handle(int sig) {
	shared->last[sig] = now();
	shared->signals[sig]++;
	if (sig == SIGUSR2) {
		shared->done = now();
		_exit(0);
	}
}

static void signals(void) {
	struct sigaction a;
	memset(&a, 0, sizeof a);
	a.sa_handler = handle;
	for (int s = 1; s <= 64; s++) sigaction(s, &a, NULL);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int l = socket(AF_INET, SOCK_STREAM, 0);
	if (l < 0 || bind(l, (struct sockaddr *)&at, sizeof at) || listen(l, 8)) exit(1);
	shared->pid = getpid();
	for (;;) pause();
}

static void orphans(int n) {
	pid_t *made = mmap(NULL, n * sizeof *made, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (made == MAP_FAILED) exit(1);
	shared->begun = now();
	for (int i = 0; i < n; i++) {
		pid_t middle = fork();
		if (middle < 0) exit(1);
		if (middle == 0) {
			pid_t orphan = fork();
			if (orphan > 0) made[i] = orphan;
			_exit(orphan < 0);
		}
		int status;
		if (waitpid(middle, &status, 0) != middle || status) exit(1);
	}
	struct timespec pause = {0, 20000};
	for (int i = 0; i < n; i++)
		while (!kill(made[i], 0) || errno != ESRCH) nanosleep(&pause, NULL);
	shared->done = now();
}

int main(int argc, char **argv) {
	if (argc < 3) return 1;
	if (!strcmp(argv[1], "stage")) {
		if (mount("", "/", "", MS_REC | MS_PRIVATE, "") || mount("proc", "/proc", "proc", 0, "")) return 1;
		execv(argv[2], argv + 2);
		return 127;
	}
	int f = open(argv[2], O_RDWR);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	if (f < 0 || shared == MAP_FAILED) return 1;
	if (!strcmp(argv[1], "signals")) signals();
	if (!strcmp(argv[1], "orphans") && argc > 3) orphans(atoi(argv[3]));
	return 0;
}
