/* spawn JOBS PROCESSES [FILE]: start and wait for `/bin/sh -c true` JOBS times, one at a time in each of PROCESSES.
 *
 * With FILE, 512 bytes are appended to it and synced (fdatasync) after each. Prints the wall time, the CPU time of all
 * processes (children included), both in seconds, and the median time of one command in the first process.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu(int who) {
    struct rusage u;
    getrusage(who, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Return the median time of one command. */
static double spawn(int jobs, int fd) {
    char *argv[] = {"sh", "-c", "true", NULL}, record[512] = {0};
    double *times = calloc(jobs, sizeof *times);
    for (int i = 0; i < jobs; i++) {
        double began = now();
        int status;
        pid_t pid;
        if (posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ) != 0 || waitpid(pid, &status, 0) != pid || status != 0)
            exit(1);
        if (fd >= 0 && (write(fd, record, sizeof record) != sizeof record || fdatasync(fd) != 0))
            exit(1);
        times[i] = now() - began;
    }
    qsort(times, jobs, sizeof *times, compare);
    double median = times[jobs / 2];
    free(times);
    return median;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    int jobs = atoi(argv[1]), processes = atoi(argv[2]);
    int fd = argc > 3 ? open(argv[3], O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    double began = now();
    for (int i = 1; i < processes; i++)
        if (fork() == 0) {
            spawn(jobs / processes, fd);
            _exit(0);
        }
    double median = spawn(jobs / processes, fd);
    int status;
    while (wait(&status) > 0)
        if (status != 0)
            return 1;
    printf("%.9f %.9f %.9f\n", now() - began, cpu(RUSAGE_SELF) + cpu(RUSAGE_CHILDREN), median);
    return 0;
}
