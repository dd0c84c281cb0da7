/* Walks libgearman's client against the server at argv[1]:argv[2], where worker.c works, with a job for later if there is an argv[3]; the last line is `ok`. */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void need(int is_right, const char *what) {
  if (!is_right) {
    fprintf(stderr, "client: %s\n", what);
    exit(1);
  }
}

static void same(const char *got, size_t size, const char *want, const char *what) {
  if (size != strlen(want) || memcmp(got, want, size) != 0) {
    fprintf(stderr, "client: %s: want %s, got %.*s\n", what, want, (int)size, got ? got : "");
    exit(1);
  }
}

/* libgearman moves all that it has read of a packet with each piece that arrives: larger is slow. */
#define BIG (64 << 10)

static int created, completed, failed, excepted, statuses, warnings;
static size_t data_bytes;
static char exception[64];

static gearman_return_t on_created(gearman_task_st *task) { (void)task; created++; return GEARMAN_SUCCESS; }
static gearman_return_t on_data(gearman_task_st *task) { data_bytes += gearman_task_data_size(task); return GEARMAN_SUCCESS; }
static gearman_return_t on_warning(gearman_task_st *task) { (void)task; warnings++; return GEARMAN_SUCCESS; }
static gearman_return_t on_status(gearman_task_st *task) {
  statuses += gearman_task_denominator(task) == 3 ? 1 : 1000;
  return GEARMAN_SUCCESS;
}
static gearman_return_t on_complete(gearman_task_st *task) { (void)task; completed++; return GEARMAN_SUCCESS; }
static gearman_return_t on_fail(gearman_task_st *task) { (void)task; failed++; return GEARMAN_SUCCESS; }
static gearman_return_t on_exception(gearman_task_st *task) {
  excepted++;
  snprintf(exception, sizeof exception, "%.*s", (int)gearman_task_data_size(task), (const char *)gearman_task_data(task));
  return GEARMAN_SUCCESS;
}

static void plain(gearman_client_st *client) {
  gearman_return_t code;
  size_t size;
  void *(*forms[])(gearman_client_st *, const char *, const char *, const void *, size_t, size_t *, gearman_return_t *) = {
    gearman_client_do, gearman_client_do_high, gearman_client_do_low,
  };
  for (size_t i = 0; i < 3; i++) {
    char *result = forms[i](client, "reverse", NULL, "xebi", 4, &size, &code);
    /* What a worker sent as data before an empty result comes first. */
    while (code == GEARMAN_WORK_STATUS) result = forms[i](client, "reverse", NULL, "xebi", 4, &size, &code);
    need(code == GEARMAN_WORK_DATA || code == GEARMAN_SUCCESS, "do");
    same(result, size, "ibex", "do");
    free(result);
    while (code != GEARMAN_SUCCESS) {
      result = forms[i](client, "reverse", NULL, "xebi", 4, &size, &code);
      free(result);
      need(!gearman_failed(code), "do, to its end");
    }
  }
  free(gearman_client_do(client, "breaks", NULL, "x", 1, &size, &code));
  need(code == GEARMAN_WORK_FAIL, "a failing job fails");
}

static void tasks(gearman_client_st *client) {
  gearman_return_t code;
  need(gearman_client_set_server_option(client, "exceptions", 10), "option exceptions");
  gearman_client_set_created_fn(client, on_created);
  gearman_client_set_data_fn(client, on_data);
  gearman_client_set_warning_fn(client, on_warning);
  gearman_client_set_status_fn(client, on_status);
  gearman_client_set_complete_fn(client, on_complete);
  gearman_client_set_fail_fn(client, on_fail);
  gearman_client_set_exception_fn(client, on_exception);
  char *big = malloc(BIG);
  memset(big, 'b', BIG);
  for (int i = 0; i < 20; i++) {
    gearman_client_add_task(client, NULL, NULL, "reverse", NULL, big, BIG, &code);
    need(code == GEARMAN_SUCCESS, "add task");
  }
  gearman_client_add_task_high(client, NULL, NULL, "steps", NULL, "go", 2, &code);
  need(gearman_client_run_tasks(client) == GEARMAN_SUCCESS, "run tasks");
  need(created == 21 && completed == 21 && failed == 0, "all tasks end");
  need(data_bytes == 20u * BIG + 15 && warnings == 3 && statuses == 3, "data, warnings, statuses");
  gearman_client_add_task(client, NULL, NULL, "throws", NULL, "x", 1, &code);
  gearman_client_run_tasks(client);
  need(excepted == 1, "an exception comes");
  same(exception, strlen(exception), "thrown", "exception");
  gearman_client_clear_fn(client);
  free(big);
}

static void background(gearman_client_st *client) {
  gearman_job_handle_t handle;
  bool is_known = true, is_running;
  uint32_t numerator, denominator;
  need(gearman_client_do_background(client, "names", "one-of-a-kind", "x", 1, handle) == GEARMAN_SUCCESS, "background");
  time_t until = time(NULL) + 60;
  while (is_known) {
    need(time(NULL) < until, "the background job ends");
    need(gearman_client_job_status(client, handle, &is_known, &is_running, &numerator, &denominator) == GEARMAN_SUCCESS, "status");
    usleep(5000);
  }
  need(gearman_client_do_low_background(client, "nobody-does-this", "same", "x", 1, handle) == GEARMAN_SUCCESS, "background");
  gearman_job_handle_t again;
  need(gearman_client_do_low_background(client, "nobody-does-this", "same", "x", 1, again) == GEARMAN_SUCCESS, "background");
  need(strcmp(handle, again) == 0, "equal keys are one job");
  need(gearman_client_job_status(client, handle, &is_known, &is_running, &numerator, &denominator) == GEARMAN_SUCCESS && is_known && !is_running, "it waits");
}

static void later(gearman_client_st *client) {
  gearman_task_attr_t when = gearman_task_attr_init_epoch(time(NULL) + 1, GEARMAN_JOB_PRIORITY_NORMAL);
  gearman_argument_t argument = gearman_argument_make(NULL, 0, "x", 1);
  gearman_task_st *task = gearman_execute(client, "reverse", 7, NULL, 0, &when, &argument, NULL);
  need(task != NULL, "a job for later");
  gearman_job_handle_t handle;
  snprintf(handle, sizeof handle, "%s", gearman_task_job_handle(task));
  bool is_known = true, is_running;
  uint32_t numerator, denominator;
  time_t until = time(NULL) + 60;
  while (is_known) {
    need(time(NULL) < until, "the job for later ends");
    need(gearman_client_job_status(client, handle, &is_known, &is_running, &numerator, &denominator) == GEARMAN_SUCCESS, "status");
    usleep(5000);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  gearman_client_st *client = gearman_client_create(NULL);
  need(gearman_client_add_server(client, argv[1], (in_port_t)atoi(argv[2])) == GEARMAN_SUCCESS, "server");
  gearman_client_set_timeout(client, 45000);
  need(gearman_client_echo(client, "hello", 5) == GEARMAN_SUCCESS, "echo");
  plain(client);
  tasks(client);
  background(client);
  /* The original forgets to wake a sleeping worker when a job's time comes. */
  if (argc == 4) later(client);
  gearman_job_handle_t handle;
  need(gearman_client_do_background(client, "quit", NULL, "x", 1, handle) == GEARMAN_SUCCESS, "quit");
  gearman_client_free(client);
  puts("ok");
  return 0;
}
