/* A libnvidia-ml.so.1 for tests, driven by a script: see SCRIPT.md beside this file. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_GPUS 16
#define MAX_MIG 7
#define MAX_PROCESSES 32
#define MAX_LINKS 18
#define MAX_LINES 4096
#define MAX_FUNCTIONS 96
#define MAX_EVENTS 256
#define GLOBAL MAX_GPUS /* the slot of overrides that belong to no GPU */

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, GPU_IS_LOST = 15 };
enum { EVENT_SINGLE_BIT = 1, EVENT_DOUBLE_BIT = 2, EVENT_XID = 8 };

typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } Process;
typedef struct { Process list[MAX_PROCESSES]; unsigned count; } Processes;
typedef struct { int gpu, mig; } Handle;
typedef struct { char uuid[96]; unsigned long long total, used; Processes processes; int present; Handle handle; } Mig;
typedef struct {
  Handle handle;
  char name[96], uuid[96];
  unsigned bus;
  int lost, mig_on, links, link_down[MAX_LINKS], has_nvlink;
  unsigned long long total, used, reserved, throttle, ecc[2], crc, replay, recovery;
  unsigned util, util_memory, power, limit, temperature, slowdown, sm, memory_clock, sm_max, remapped[4];
  Processes processes;
  Mig mig[MAX_MIG];
} Gpu;
typedef struct { const char *name; int error[MAX_GPUS + 1]; double block[MAX_GPUS + 1]; long calls; } Function;
typedef struct { int tick; char *text; } Line;
typedef struct { int gpu; unsigned long long type, data; } Event;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Gpu gpus[MAX_GPUS];
static int gpu_count, initialised, manual_tick, next_line, line_count, event_count, registered[MAX_GPUS];
static char driver[80], tick_file[512];
static int cuda;
static double rate, started;
static Line lines[MAX_LINES];
static Function functions[MAX_FUNCTIONS];
static int function_count;
static Event events[MAX_EVENTS];

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static Function *function(const char *name) {
  for (int i = 0; i < function_count; i++)
    if (!strcmp(functions[i].name, name)) return &functions[i];
  if (function_count == MAX_FUNCTIONS) abort();
  functions[function_count].name = strdup(name);
  return &functions[function_count++];
}

static unsigned long long mib(double value) { return (unsigned long long)(value * 1048576.0); }

static void set_process(Processes *all, unsigned pid, double used, int slot) {
  unsigned i = 0;
  while (i < all->count && all->list[i].pid != pid) i++;
  if (i == MAX_PROCESSES) return;
  if (i == all->count) all->count++;
  all->list[i] = (Process){pid, used < 0 ? ~0ULL : mib(used), slot < 0 ? ~0U : (unsigned)slot, ~0U};
}

static void end_process(Processes *all, unsigned pid) {
  for (unsigned i = 0; i < all->count; i++)
    if (all->list[i].pid == pid) {
      all->list[i] = all->list[--all->count];
      return;
    }
}

static void queue_event(int gpu, unsigned long long type, unsigned long long data) {
  if (registered[gpu] && event_count < MAX_EVENTS) events[event_count++] = (Event){gpu, type, data};
}

static void apply_to(int index, const char *key, const char *rest) {
  Gpu *gpu = &gpus[index];
  double a = 0, b = 0, c = 0, d = 0;
  char word[128] = "";
  int n = sscanf(rest, "%lf %lf %lf %lf", &a, &b, &c, &d);
  sscanf(rest, "%127s", word);
  if (!strcmp(key, "memory")) {
    gpu->total = mib(a), gpu->used = mib(b);
    if (n > 2) gpu->reserved = mib(c);
  } else if (!strcmp(key, "util")) gpu->util = (unsigned)a, gpu->util_memory = (unsigned)b;
  else if (!strcmp(key, "power")) {
    gpu->power = (unsigned)(a * 1000);
    if (n > 1) gpu->limit = (unsigned)(b * 1000);
  } else if (!strcmp(key, "temp")) {
    gpu->temperature = (unsigned)a;
    if (n > 1) gpu->slowdown = (unsigned)b;
  } else if (!strcmp(key, "clocks")) {
    gpu->sm = (unsigned)a, gpu->memory_clock = (unsigned)b;
    if (n > 2) gpu->sm_max = (unsigned)c;
  } else if (!strcmp(key, "throttle")) gpu->throttle = strtoull(word, NULL, 0);
  else if (!strcmp(key, "ecc")) gpu->ecc[0] = (unsigned long long)a, gpu->ecc[1] = (unsigned long long)b;
  else if (!strcmp(key, "remapped")) gpu->remapped[0] = (unsigned)a, gpu->remapped[1] = (unsigned)b, gpu->remapped[2] = (unsigned)c, gpu->remapped[3] = (unsigned)d;
  else if (!strcmp(key, "nvlink")) gpu->has_nvlink = 1, gpu->links = (int)a;
  else if (!strcmp(key, "nvlink_down")) gpu->link_down[(int)a] = 1;
  else if (!strcmp(key, "nvlink_up")) gpu->link_down[(int)a] = 0;
  else if (!strcmp(key, "nvlink_errors")) gpu->crc = (unsigned long long)a, gpu->replay = (unsigned long long)b, gpu->recovery = (unsigned long long)c;
  else if (!strcmp(key, "process")) set_process(&gpu->processes, (unsigned)a, b, -1);
  else if (!strcmp(key, "process_gone")) end_process(&gpu->processes, (unsigned)a);
  else if (!strcmp(key, "mig")) gpu->mig_on = !strcmp(word, "on");
  else if (!strcmp(key, "mig_instance")) {
    int slot = atoi(rest);
    Mig *mig = &gpu->mig[slot];
    if (sscanf(rest, "%*d %95s %lf %lf", mig->uuid, &a, &b) == 3) mig->total = mib(a), mig->used = mib(b), mig->present = 1, mig->handle = (Handle){index, slot};
  } else if (!strcmp(key, "mig_process")) set_process(&gpu->mig[(int)a].processes, (unsigned)b, c, (int)a);
  else if (!strcmp(key, "uuid")) snprintf(gpu->uuid, sizeof gpu->uuid, "%s", word);
  else if (!strcmp(key, "name")) snprintf(gpu->name, sizeof gpu->name, "%s", rest);
  else if (!strcmp(key, "bus")) gpu->bus = (unsigned)strtoul(word, NULL, 0);
  else if (!strcmp(key, "xid")) queue_event(index, EVENT_XID, (unsigned long long)a);
  else if (!strcmp(key, "ecc_event")) queue_event(index, !strcmp(word, "double") ? EVENT_DOUBLE_BIT : EVENT_SINGLE_BIT, 0);
  else if (!strcmp(key, "lost")) gpu->lost = 1;
  else if (!strcmp(key, "back")) gpu->lost = 0;
  else fprintf(stderr, "fake nvml: unknown key %s\n", key), abort();
}

static void apply_line(const char *text) {
  char target[16], key[64], name[96];
  int used = 0;
  double value;
  if (sscanf(text, "%15s %63s %n", target, key, &used) < 2) fprintf(stderr, "fake nvml: cannot read: %s\n", text), abort();
  const char *rest = text + used;
  int first = 0, last = gpu_count - 1;
  if (!strcmp(target, "-")) first = last = GLOBAL;
  else if (strcmp(target, "*")) first = last = atoi(target);
  for (int i = first; i <= last; i++) {
    if (!strcmp(key, "error") || !strcmp(key, "block")) {
      if (sscanf(rest, "%95s %lf", name, &value) != 2) fprintf(stderr, "fake nvml: cannot read: %s\n", text), abort();
      if (*key == 'e') function(name)->error[i] = (int)value;
      else function(name)->block[i] = value;
    } else apply_to(i, key, rest);
  }
}

static int tick(void) {
  if (*tick_file) {
    FILE *file = fopen(tick_file, "r");
    int value = 0;
    if (file) {
      if (fscanf(file, "%d", &value) != 1) value = 0;
      fclose(file);
    }
    return value;
  }
  return rate > 0 ? (int)((seconds() - started) * rate) : manual_tick;
}

static void advance(void) {
  if (next_line == line_count) return;
  for (int now = tick(); next_line < line_count && lines[next_line].tick <= now; next_line++) apply_line(lines[next_line].text);
}

static int by_tick(const void *a, const void *b) {
  const Line *x = a, *y = b;
  return x->tick != y->tick ? x->tick - y->tick : x->text < y->text ? -1 : 1;
}

static void load(void) {
  static char text[1 << 20];
  static const unsigned buses[8] = {0x0f, 0x2d, 0x44, 0x5b, 0x89, 0xa8, 0xc0, 0xd8};
  const char *path = getenv("FAKE_NVML_SCRIPT");
  size_t size = 0;
  FILE *file = path ? fopen(path, "r") : NULL;
  if (file) {
    size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
  }
  text[size] = 0;
  memset(gpus, 0, sizeof gpus);
  memset(registered, 0, sizeof registered);
  for (int i = 0; i < function_count; i++) {
    memset(functions[i].error, 0, sizeof functions[i].error);
    memset(functions[i].block, 0, sizeof functions[i].block);
  }
  gpu_count = 1, line_count = next_line = event_count = manual_tick = 0, rate = 0, cuda = 13000, *tick_file = 0;
  strcpy(driver, "580.95.05");
  started = seconds();
  char *state = NULL;
  for (char *line = strtok_r(text, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
    char word[64] = "", how[32] = "";
    int used = 0;
    if (*line == '#' || sscanf(line, "%63s %n", word, &used) < 1) continue;
    char *rest = line + used;
    if (!strcmp(word, "gpus")) gpu_count = atoi(rest);
    else if (!strcmp(word, "driver")) snprintf(driver, sizeof driver, "%s", rest);
    else if (!strcmp(word, "cuda")) cuda = atoi(rest);
    else if (!strcmp(word, "clock")) {
      sscanf(rest, "%31s %n", how, &used);
      if (!strcmp(how, "seconds")) rate = atof(rest + used);
      if (!strcmp(how, "file")) snprintf(tick_file, sizeof tick_file, "%s", rest + used);
    } else if (*word == '@' && line_count < MAX_LINES) lines[line_count++] = (Line){atoi(word + 1), rest};
    else fprintf(stderr, "fake nvml: cannot read: %s\n", line), abort();
  }
  qsort(lines, (size_t)line_count, sizeof *lines, by_tick);
  for (int i = 0; i < gpu_count; i++) {
    Gpu *gpu = &gpus[i];
    gpu->handle = (Handle){i, -1};
    strcpy(gpu->name, "NVIDIA H200");
    snprintf(gpu->uuid, sizeof gpu->uuid, "GPU-%08x-aaaa-bbbb-cccc-%012x", (unsigned)i * 0x11111111U, (unsigned)i);
    gpu->bus = i < 8 ? buses[i] : 0xe0U + (unsigned)i;
    gpu->total = mib(143771), gpu->reserved = mib(615), gpu->limit = 700000, gpu->power = 77000;
    gpu->temperature = 34, gpu->slowdown = 87, gpu->sm = 345, gpu->memory_clock = 3201, gpu->sm_max = 1980, gpu->throttle = 1;
  }
}

/* Every call: one lock, the script up to now, then the overrides. Returns with the lock held when the result is OK. */
static int enter(Function *self, const Handle *handle) {
  int slot = handle ? handle->gpu : GLOBAL;
  double until = 0;
  pthread_mutex_lock(&mutex);
  self->calls++;
  for (;;) {
    if (initialised) advance();
    if (self->block[slot] <= 0) break;
    if (until == 0) until = seconds() + self->block[slot];
    if (seconds() >= until) break;
    pthread_mutex_unlock(&mutex);
    nanosleep(&(struct timespec){0, 2000000}, NULL);
    pthread_mutex_lock(&mutex);
  }
  int code = !initialised ? UNINITIALIZED : handle && gpus[slot].lost ? GPU_IS_LOST : self->error[slot];
  if (code) pthread_mutex_unlock(&mutex);
  return code;
}

#define ENTER(handle)                                     \
  static Function *self;                                  \
  if (!self) {                                            \
    pthread_mutex_lock(&mutex);                           \
    self = function(__func__);                            \
    pthread_mutex_unlock(&mutex);                         \
  }                                                       \
  int code = enter(self, handle);                         \
  if (code) return code;
#define LEAVE(result)                \
  do {                               \
    int leaving = (result);          \
    pthread_mutex_unlock(&mutex);    \
    return leaving;                  \
  } while (0)
#define GPU (&gpus[handle->gpu])
#define WHOLE \
  if (handle->mig >= 0) LEAVE(NOT_SUPPORTED)

/* for tests */
void fakeNvmlSetTick(int value) {
  pthread_mutex_lock(&mutex);
  manual_tick = value;
  advance();
  pthread_mutex_unlock(&mutex);
}
long fakeNvmlCalls(const char *name) {
  pthread_mutex_lock(&mutex);
  long calls = function(name)->calls;
  pthread_mutex_unlock(&mutex);
  return calls;
}

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  pthread_mutex_lock(&mutex);
  Function *self = function(__func__);
  if (!initialised) load();
  initialised = 1;
  advance();
  pthread_mutex_unlock(&mutex);
  int code = enter(self, NULL);
  if (code) {
    initialised = 0;
    return code;
  }
  LEAVE(OK);
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
  ENTER(NULL);
  initialised = 0;
  LEAVE(OK);
}
const char *nvmlErrorString(int code) {
  (void)code;
  return "fake";
}
static int put(char *to, unsigned size, const char *from) {
  if (strlen(from) >= size) return INSUFFICIENT_SIZE;
  strcpy(to, from);
  return OK;
}
int nvmlSystemGetDriverVersion(char *to, unsigned size) {
  ENTER(NULL);
  LEAVE(put(to, size, driver));
}
int nvmlSystemGetCudaDriverVersion(int *to) {
  ENTER(NULL);
  *to = cuda;
  LEAVE(OK);
}
int nvmlSystemGetProcessName(unsigned pid, char *to, unsigned size) {
  ENTER(NULL);
  char path[64], text[256] = "";
  snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
  FILE *file = fopen(path, "r");
  if (!file) LEAVE(NOT_FOUND);
  size_t n = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  LEAVE(n ? put(to, size, text) : NOT_FOUND);
}
int nvmlDeviceGetCount_v2(unsigned *to) {
  ENTER(NULL);
  *to = (unsigned)gpu_count;
  LEAVE(OK);
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle **to) {
  Handle probe = {(int)index, -1};
  if ((int)index >= MAX_GPUS) return INVALID_ARGUMENT;
  ENTER(&probe);
  if ((int)index >= gpu_count) LEAVE(INVALID_ARGUMENT);
  *to = &gpus[index].handle;
  LEAVE(OK);
}
int nvmlDeviceGetName(Handle *handle, char *to, unsigned size) {
  ENTER(handle);
  LEAVE(put(to, size, GPU->name));
}
int nvmlDeviceGetUUID(Handle *handle, char *to, unsigned size) {
  ENTER(handle);
  LEAVE(put(to, size, handle->mig < 0 ? GPU->uuid : GPU->mig[handle->mig].uuid));
}
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
int nvmlDeviceGetPciInfo_v3(Handle *handle, Pci *to) {
  ENTER(handle);
  WHOLE;
  memset(to, 0, sizeof *to);
  to->bus = GPU->bus;
  snprintf(to->bus_id, sizeof to->bus_id, "00000000:%02X:00.0", GPU->bus);
  LEAVE(OK);
}
typedef struct { unsigned long long total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(Handle *handle, Memory *to) {
  ENTER(handle);
  if (handle->mig >= 0) {
    Mig *mig = &GPU->mig[handle->mig];
    *to = (Memory){mig->total, mig->total - mig->used, mig->used};
  } else *to = (Memory){GPU->total, GPU->total - GPU->used - GPU->reserved, GPU->used + GPU->reserved};
  LEAVE(OK);
}
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
int nvmlDeviceGetMemoryInfo_v2(Handle *handle, Memory2 *to) {
  ENTER(handle);
  if (to->version != 0x02000028U) LEAVE(25);
  if (handle->mig >= 0) {
    Mig *mig = &GPU->mig[handle->mig];
    *to = (Memory2){to->version, mig->total, 0, mig->total - mig->used, mig->used};
  } else *to = (Memory2){to->version, GPU->total, GPU->reserved, GPU->total - GPU->used - GPU->reserved, GPU->used};
  LEAVE(OK);
}
typedef struct { unsigned gpu, memory; } Utilization;
int nvmlDeviceGetUtilizationRates(Handle *handle, Utilization *to) {
  ENTER(handle);
  if (handle->mig >= 0 || GPU->mig_on) LEAVE(NOT_SUPPORTED);
  *to = (Utilization){GPU->util, GPU->util_memory};
  LEAVE(OK);
}
int nvmlDeviceGetTemperature(Handle *handle, int sensor, unsigned *to) {
  ENTER(handle);
  WHOLE;
  (void)sensor, *to = GPU->temperature;
  LEAVE(OK);
}
int nvmlDeviceGetTemperatureThreshold(Handle *handle, int kind, unsigned *to) {
  ENTER(handle);
  WHOLE;
  if (kind != 1) LEAVE(NOT_SUPPORTED);
  *to = GPU->slowdown;
  LEAVE(OK);
}
int nvmlDeviceGetPowerUsage(Handle *handle, unsigned *to) {
  ENTER(handle);
  WHOLE;
  *to = GPU->power;
  LEAVE(OK);
}
int nvmlDeviceGetEnforcedPowerLimit(Handle *handle, unsigned *to) {
  ENTER(handle);
  WHOLE;
  *to = GPU->limit;
  LEAVE(OK);
}
int nvmlDeviceGetClockInfo(Handle *handle, int kind, unsigned *to) {
  ENTER(handle);
  WHOLE;
  *to = kind == 2 ? GPU->memory_clock : GPU->sm;
  LEAVE(OK);
}
int nvmlDeviceGetMaxClockInfo(Handle *handle, int kind, unsigned *to) {
  ENTER(handle);
  WHOLE;
  (void)kind, *to = GPU->sm_max;
  LEAVE(OK);
}
int nvmlDeviceGetCurrentClocksEventReasons(Handle *handle, unsigned long long *to) {
  ENTER(handle);
  WHOLE;
  *to = GPU->throttle;
  LEAVE(OK);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Handle *handle, unsigned long long *to) {
  ENTER(handle);
  WHOLE;
  *to = GPU->throttle;
  LEAVE(OK);
}
int nvmlDeviceGetTotalEccErrors(Handle *handle, int kind, int counter, unsigned long long *to) {
  ENTER(handle);
  WHOLE;
  (void)counter, *to = GPU->ecc[kind != 0];
  LEAVE(OK);
}
int nvmlDeviceGetRemappedRows(Handle *handle, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
  ENTER(handle);
  WHOLE;
  *a = GPU->remapped[0], *b = GPU->remapped[1], *c = GPU->remapped[2], *d = GPU->remapped[3];
  LEAVE(OK);
}
int nvmlDeviceGetNvLinkState(Handle *handle, unsigned link, unsigned *to) {
  ENTER(handle);
  if (handle->mig >= 0 || !GPU->has_nvlink) LEAVE(NOT_SUPPORTED);
  if ((int)link >= GPU->links) LEAVE(INVALID_ARGUMENT);
  *to = !GPU->link_down[link];
  LEAVE(OK);
}
typedef struct { unsigned field, scope; int64_t stamp, latency; int type, code; union { double d; unsigned long long u; } value; } Field;
int nvmlDeviceGetFieldValues(Handle *handle, int count, Field *to) {
  ENTER(handle);
  WHOLE;
  for (int i = 0; i < count; i++) {
    to[i].type = 3, to[i].code = GPU->has_nvlink ? OK : NOT_SUPPORTED, to[i].value.u = 0;
    switch (to[i].field) {
      case 38: to[i].value.u = GPU->crc; break;
      case 45: break;
      case 52: to[i].value.u = GPU->replay; break;
      case 59: to[i].value.u = GPU->recovery; break;
      default: to[i].code = NOT_SUPPORTED;
    }
  }
  LEAVE(OK);
}
int nvmlDeviceGetComputeRunningProcesses_v3(Handle *handle, unsigned *count, Process *to) {
  ENTER(handle);
  Processes *all = handle->mig < 0 ? &GPU->processes : &GPU->mig[handle->mig].processes;
  unsigned room = *count;
  *count = all->count;
  if (all->count > room || (all->count && !to)) LEAVE(INSUFFICIENT_SIZE);
  memcpy(to, all->list, all->count * sizeof(Process));
  LEAVE(OK);
}
int nvmlDeviceGetPcieThroughput(Handle *handle, int kind, unsigned *to) {
  ENTER(handle);
  (void)kind, *to = 0;
  LEAVE(OK);
}
int nvmlDeviceGetTotalEnergyConsumption(Handle *handle, unsigned long long *to) {
  ENTER(handle);
  *to = 0;
  LEAVE(OK);
}
int nvmlDeviceGetMigMode(Handle *handle, unsigned *current, unsigned *pending) {
  ENTER(handle);
  WHOLE;
  *current = *pending = (unsigned)GPU->mig_on;
  LEAVE(OK);
}
int nvmlDeviceGetMaxMigDeviceCount(Handle *handle, unsigned *to) {
  ENTER(handle);
  *to = GPU->mig_on ? MAX_MIG : 0;
  LEAVE(OK);
}
int nvmlDeviceGetMigDeviceHandleByIndex(Handle *handle, unsigned index, Handle **to) {
  ENTER(handle);
  if (index >= MAX_MIG || !GPU->mig[index].present) LEAVE(NOT_FOUND);
  *to = &GPU->mig[index].handle;
  LEAVE(OK);
}
int nvmlEventSetCreate(void **to) {
  ENTER(NULL);
  *to = events;
  LEAVE(OK);
}
int nvmlEventSetFree(void *set) {
  ENTER(NULL);
  (void)set;
  memset(registered, 0, sizeof registered);
  LEAVE(OK);
}
int nvmlDeviceGetSupportedEventTypes(Handle *handle, unsigned long long *to) {
  ENTER(handle);
  *to = 0xff9f;
  LEAVE(OK);
}
int nvmlDeviceRegisterEvents(Handle *handle, unsigned long long types, void *set) {
  ENTER(handle);
  (void)set;
  registered[handle->gpu] = (types & EVENT_XID) != 0;
  LEAVE(OK);
}
typedef struct { Handle *device; unsigned long long type, data; unsigned gi, ci; } EventData;
#ifndef EVENT_PAUSE
#define EVENT_PAUSE 50000000 /* nanoseconds between looks for an event */
#endif
int nvmlEventSetWait_v2(void *set, EventData *to, unsigned milliseconds) {
  double until = seconds() + milliseconds / 1000.0;
  (void)set;
  for (;;) {
    ENTER(NULL);
    if (event_count) {
      Event event = events[0];
      memmove(events, events + 1, (size_t)--event_count * sizeof *events);
      *to = (EventData){&gpus[event.gpu].handle, event.type, event.data, ~0U, ~0U};
      LEAVE(OK);
    }
    for (int i = 0; i < gpu_count; i++)
      if (registered[i] && gpus[i].lost) LEAVE(GPU_IS_LOST); /* as the real one: at once, on every call */
    if (seconds() >= until) LEAVE(TIMEOUT);
    pthread_mutex_unlock(&mutex);
    nanosleep(&(struct timespec){0, EVENT_PAUSE}, NULL); /* the real one sleeps in the kernel */
  }
}
