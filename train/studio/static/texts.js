// Every text of the pages, English and Russian side by side, and numbers as each language writes them.
const LANGUAGE = "govor-language";
export const language = localStorage.getItem(LANGUAGE) || (navigator.language.startsWith("ru") ? "ru" : "en");
export function setLanguage(code) { localStorage.setItem(LANGUAGE, code); location.reload(); }

export const TEXTS = {
  skip: ["Skip to the page", "К содержанию"],
  other_language: ["По-русски", "In English"],
  nav_runs: ["Runs", "Обучения"],
  nav_rows: ["Rows", "Строки"],
  nav_chat: ["Chat", "Чат"],
  nav_new: ["New run", "Новое обучение"],
  server_gone: ["The studio does not answer. Is `govor studio` still running?", "Студия не отвечает. Работает ли ещё `govor studio`?"],
  key_wanted: ["This studio wants a key", "Студии нужен ключ"],
  key_aid: ["The key that it was started with: GOVOR_API_KEY or --api-key-file. It is kept until this tab is closed.",
    "Тот, с которым её запустили: GOVOR_API_KEY или --api-key-file. Он хранится, пока открыта эта вкладка."],
  key: ["Key", "Ключ"],
  enter: ["Enter", "Войти"],
  loading: ["Loading …", "Загрузка…"],

  no_runs: ["No runs here yet. `govor train CONFIG` begins one, and so does the page New run.",
    "Здесь ещё ничего не обучали. Начать можно командой `govor train CONFIG` или на странице «Новое обучение»."],
  state_training: ["training", "идёт обучение"],
  state_working: ["at work", "в работе"],
  state_finished: ["finished", "закончено"],
  state_stopped: ["stopped", "остановлено"],
  state_damaged: ["damaged", "повреждено"],
  base: ["base", "база"],
  method: ["method", "метод"],
  rows: ["rows", "строк"],
  rows_held_out: ["held out", "отложено"],
  step: ["step", "шаг"],
  epoch: ["epoch", "эпоха"],
  of: ["{a} of {b}", "{a} из {b}"],
  train_loss: ["training loss", "ошибка обучения"],
  held_out_loss: ["held-out loss", "ошибка на отложенных"],
  loss_axis: ["loss, nats a token", "ошибка, нат на токен"],
  curve_title: ["Loss by step", "Ошибка по шагам"],
  tokens_seen: ["tokens so far", "токенов пройдено"],
  speed: ["tokens/s", "токенов/с"],
  left: ["time left, about", "осталось, примерно"],
  memory: ["memory, peak", "память, максимум"],
  checkpoints: ["checkpoints", "контрольные точки"],
  started: ["begun", "начато"],
  ended: ["finished", "закончено"],
  folder: ["folder", "папка"],
  on_plot: ["on the plot", "на графике"],
  open_run: ["Look at it", "Подробнее"],
  belongs_to_job: ["Belongs to a job: `govor jobs cancel {id}` ends it.", "Относится к задаче: её завершит `govor jobs cancel {id}`."],
  do_stop: ["Save and stop", "Сохранить и остановить"],
  do_resume: ["Resume", "Продолжить"],
  do_eval: ["Evaluate", "Оценить"],
  do_merge: ["Merge", "Слить с базой"],
  do_export: ["Export: {target}", "Экспорт: {target}"],
  runs_command: ["runs: {command}", "выполнит: {command}"],
  begun: ["Started: {command}", "Запущено: {command}"],
  stop_sent: ["Process {pid} was asked to save and stop.", "Процессу {pid} отправлена просьба сохраниться и остановиться."],
  commands: ["Commands started here", "Запущенные отсюда команды"],
  running: ["running", "выполняется"],
  exit_ok: ["done", "готово"],
  exit_code: ["exit code {code}", "код выхода {code}"],
  stopped_saved: ["stopped, saved", "остановлено, сохранено"],
  jobs: ["Jobs of this server", "Задачи этого сервера"],
  job: ["job", "задача"],
  status: ["status", "состояние"],
  model: ["model", "модель"],
  no_jobs: ["No jobs yet: clients of the OpenAI SDK create them.", "Задач ещё нет: их создают клиенты OpenAI SDK."],
  cancel: ["Cancel", "Отменить"],

  back: ["All runs", "Все обучения"],
  no_such_run: ["There is no such run.", "Такого обучения нет."],
  settings: ["Settings that differ from the defaults", "Настройки, отличные от обычных"],
  whole_config: ["The whole config", "Все настройки"],
  option: ["option", "настройка"],
  value: ["value", "значение"],
  default: ["default", "обычно"],
  none: ["none", "нет"],
  data_account: ["Data account", "Что стало с данными"],
  to_train: ["to train on", "для обучения"],
  held: ["held out", "отложено"],
  file: ["file", "файл"],
  tokens: ["tokens", "токенов"],
  trained_tokens: ["trained tokens", "обучаемых токенов"],
  left_out: ["left out as too long", "пропущено: слишком длинные"],
  cut_rows: ["cut", "обрезано"],
  split_rows: ["split", "разделено"],
  system_message: ["system message", "системное сообщение"],
  verdict: ["Evaluation", "Оценка"],
  not_evaluated: ["Not evaluated yet: `govor eval` compares base and tuned model.", "Ещё не оценено: `govor eval` сравнит базу и обученную модель."],
  loss_before_after: ["Held-out loss: {a} before training, {b} after.", "Ошибка на отложенных строках: {a} до обучения, {b} после."],
  keep: ["Checkpoint to keep", "Лучшая контрольная точка"],
  manner: ["manner", "манера"],
  recites: ["recites", "цитирует"],
  yes: ["yes", "да"],
  no: ["no", "нет"],
  not_measured: ["Not measured", "Не измерено"],
  trust: ["Does it answer as it was trained?", "Отвечает ли она так, как её учили?"],
  parity_ok: ["Prompts after saving: all {n} of the compared ones are equal, token by token.", "Промпты после сохранения: все {n} сравнённых совпали, токен в токен."],
  parity_bad: ["Prompts after saving: {d} of {n} differ.", "Промпты после сохранения: {d} из {n} отличаются."],
  not_merged: ["Drift: not merged yet.", "Расхождение: ещё не слито с базой."],
  drift_not_measured: ["Drift: merged without measuring it.", "Расхождение: слито без измерения."],
  drift: ["Drift of the merged model, mean KL in nats a token: {kl}.", "Расхождение слитой модели, среднее KL в натах на токен: {kl}."],
  drift_passed: ["It passes.", "Это допустимо."],
  drift_failed: ["It does not pass.", "Это недопустимо."],
  warnings: ["Warnings", "Предупреждения"],
  samples: ["Answers by checkpoint", "Ответы по контрольным точкам"],
  samples_aid: ["The same held-out prompts for each state. `govor eval {path} --checkpoints` samples all that are kept.",
    "Одни и те же отложенные промпты для каждого состояния. Все сохранённые опросит `govor eval {path} --checkpoints`."],
  samples_file: ["Answers before and after training (samples.md)", "Ответы до и после обучения (samples.md)"],
  state_base: ["base", "база"],
  state_tuned: ["tuned", "обученная"],
  real_answer: ["the persona's own", "ответ персоны"],
  previous: ["Earlier", "Назад"],
  next: ["Later", "Дальше"],
};

export function t(key, fields = {}) {
  const wording = TEXTS[key][language === "ru" ? 1 : 0];
  return wording.replace(/\{(\w+)\}/g, (_, field) => fields[field]);
}

export function number(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return null;
  const [value, unit, digits] = seconds < 90 ? [seconds, "second", 0] : seconds < 5400 ? [seconds / 60, "minute", 0] : [seconds / 3600, "hour", 1];
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: digits }).format(value);
}

export const moment = (text) => text && new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(text));
