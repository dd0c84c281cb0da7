/* A libgearman worker for the server at argv[1]:argv[2]; ends after the job `quit`. */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_over = 0;

static void need(gearman_return_t code, const char *what) {
  if (gearman_failed(code)) {
    fprintf(stderr, "worker: %s: %s\n", what, gearman_strerror(code));
    exit(1);
  }
}

static gearman_return_t reverse(gearman_job_st *job, void *context) {
  (void)context;
  size_t size = gearman_job_workload_size(job);
  const char *workload = gearman_job_workload(job);
  char *result = malloc(size + 1);
  for (size_t i = 0; i < size; i++) result[i] = workload[size - 1 - i];
  gearman_return_t code = gearman_job_send_data(job, result, size);
  free(result);
  return code;
}

static gearman_return_t steps(gearman_job_st *job, void *context) {
  (void)context;
  for (int i = 1; i <= 3; i++) {
    need(gearman_job_send_status(job, (uint32_t)i, 3), "status");
    need(gearman_job_send_data(job, "part;", 5), "data");
    need(gearman_job_send_warning(job, "mind", 4), "warning");
  }
  return GEARMAN_SUCCESS;
}

static gearman_return_t breaks(gearman_job_st *job, void *context) {
  (void)job;
  (void)context;
  return GEARMAN_FATAL;
}

static gearman_return_t throws(gearman_job_st *job, void *context) {
  (void)context;
  need(gearman_job_send_exception(job, "thrown", 6), "exception");
  return GEARMAN_SUCCESS;
}

static gearman_return_t names(gearman_job_st *job, void *context) {
  (void)context;
  const char *unique = gearman_job_unique(job);
  return gearman_job_send_data(job, unique, strlen(unique));
}

static gearman_return_t quit(gearman_job_st *job, void *context) {
  (void)job;
  (void)context;
  is_over = 1;
  return GEARMAN_SUCCESS;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  gearman_worker_st *worker = gearman_worker_create(NULL);
  need(gearman_worker_add_server(worker, argv[1], (in_port_t)atoi(argv[2])), "server");
  need(gearman_worker_set_identifier(worker, "c-worker", 8), "identifier");
  gearman_worker_add_options(worker, GEARMAN_WORKER_GRAB_UNIQ);
  struct { const char *name; gearman_function_fn *run; unsigned seconds; } functions[] = {
    {"reverse", reverse, 0}, {"steps", steps, 0}, {"breaks", breaks, 0},
    {"throws", throws, 0}, {"names", names, 20}, {"quit", quit, 0},
  };
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    gearman_function_t run = gearman_function_create(functions[i].run);
    need(gearman_worker_define_function(worker, functions[i].name, strlen(functions[i].name), run, functions[i].seconds, NULL), functions[i].name);
  }
  while (!is_over) {
    gearman_return_t code = gearman_worker_work(worker);
    if (code != GEARMAN_SUCCESS && code != GEARMAN_WORK_FAIL && code != GEARMAN_FATAL) need(code, "work");
  }
  gearman_worker_free(worker);
  return 0;
}
