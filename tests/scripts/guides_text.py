"""The command blocks of five guides that people followed before govor, and the lines that those promise.

Each guide is a list of (block, promised lines). A block is shell unless it begins with `from` or `import`. The prose
around them is left out.
"""

ROWS = "data/natasha_finetuning_20251125_153356.jsonl"
VALID = ("✅ Validation passed: 321 training examples",)
TESTED = (
    "Test 1: Я чувствую себя потерянным в жизни",
    "Response: Ответ на: Я чувству",
    "Test 2: Как начать свой бизнес?",
    "Response: Ответ на: Как начат",
)


def started(to: str = "", within: str = "") -> tuple[str, ...]:
    """What a script promises that trains."""
    return (
        f"✅ File uploaded successfully{to}",
        "   File ID: file-",
        f"✅ Fine-tuning job created successfully{within}",
        "   Job ID: ftjob-",
        "   Status: queued",
        "⏳ Starting to monitor fine-tuning job...",
        *TESTED,
    )


def chat(model: str, base_url: str = "") -> str:
    return f"""from openai import OpenAI

client = OpenAI({base_url})

response = client.chat.completions.create(
    model="{model}",  # Ваша fine-tuned модель
    messages=[
        {{"role": "user", "content": "Я чувствую себя потерянным"}}
    ],
    max_tokens=500,
    temperature=0.7
)

print(response.choices[0].message.content)
"""


OPENAI_SCRIPT = "python scripts/analysis/upload_and_finetune_natasha.py"
OPENAI_MODEL = "ft:gpt-3.5-turbo:org-xxx::yyy"
OPENAI = [
    ("pip install openai python-dotenv", ()),
    (f"{OPENAI_SCRIPT} --validate-only", VALID),
    (OPENAI_SCRIPT, (*VALID, *started())),
    (
        f"{OPENAI_SCRIPT} \\\n  --model gpt-4-turbo \\\n  --epochs 5 \\\n  --learning-rate 0.05 \\\n"
        "  --suffix natasha-gpt4-v1",
        started(),
    ),
    (
        f"# Только валидация\n{OPENAI_SCRIPT} --validate-only\n\n# Только загрузка файла\n{OPENAI_SCRIPT} --upload-only"
        f"\n\n# Мониторинг существующего job\n{OPENAI_SCRIPT} --monitor ftjob-xxx\n\n# Тестирование fine-tuned модели\n"
        f"{OPENAI_SCRIPT} --test {OPENAI_MODEL}\n\n# Список всех jobs\n{OPENAI_SCRIPT} --list-jobs",
        (*VALID, "   File ID: file-", "Status: succeeded", *TESTED, "ftjob-1  succeeded"),
    ),
    (f"{OPENAI_SCRIPT} \\\n  --epochs 1 \\\n  --learning-rate 0.2 \\\n  --suffix natasha-test", started()),
    (f"{OPENAI_SCRIPT} \\\n  --epochs 3 \\\n  --learning-rate 0.1 \\\n  --suffix natasha-prod-v1", started()),
    (
        f"{OPENAI_SCRIPT} \\\n  --model gpt-4-turbo \\\n  --epochs 5 \\\n  --learning-rate 0.05 \\\n"
        "  --suffix natasha-premium-v1",
        started(),
    ),
    (f"# Тестирование конкретной модели\n{OPENAI_SCRIPT} \\\n  --test {OPENAI_MODEL}", TESTED),
    (chat(OPENAI_MODEL), ("Ответ на: Я чувству",)),
    (
        "# Проверить, что OPENAI_API_KEY установлен\necho $OPENAI_API_KEY\n\n# Добавить в .env\nOPENAI_API_KEY=sk-...",
        ("sk-of-the-test",),
    ),
    (
        f"# Переvalidировать файл\n{OPENAI_SCRIPT} --validate-only\n\n# Проверить формат JSONL\n"
        f"head -1 {ROWS} | python -m json.tool",
        (*VALID, '    "messages": ['),
    ),
    (
        f"# Валидация\n{OPENAI_SCRIPT} --validate-only\n\n# Загрузка\n{OPENAI_SCRIPT} --upload-only\n\n"
        f"# Запуск с минимальными параметрами\n{OPENAI_SCRIPT} \\\n  --epochs 1 \\\n  --suffix natasha-test",
        (*VALID, *started()),
    ),
    (
        f"{OPENAI_SCRIPT} \\\n  --model gpt-3.5-turbo \\\n  --epochs 3 \\\n  --learning-rate 0.1 \\\n"
        "  --suffix natasha-prod-v1",
        started(),
    ),
    (
        f"# Получить список всех jobs\n{OPENAI_SCRIPT} --list-jobs\n\n# Мониторить конкретный job\n"
        f"{OPENAI_SCRIPT} --monitor ftjob-xxx",
        ("ftjob-1  ", "Status: succeeded"),
    ),
]

KIMI_SCRIPT = "python scripts/analysis/upload_and_finetune_kimi.py"
KIMI_MODEL = "ft:moonshot-v1-8k:org-xxx::yyy"
KIMI_STARTED = started(" to Kimi", " in Kimi")
KIMI_CLIENT = '\n    api_key="sk-...",\n    base_url="https://api.moonshot.cn/v1"\n'
KIMI = [
    ("pip install openai python-dotenv", ()),
    ("# Добавить в .env\nKIMI_API_KEY=sk-...", ()),
    (f"{KIMI_SCRIPT} --validate-only", VALID),
    (KIMI_SCRIPT, (*VALID, *KIMI_STARTED)),
    (
        f"{KIMI_SCRIPT} \\\n  --model moonshot-v1-32k \\\n  --epochs 5 \\\n  --learning-rate 0.05 \\\n"
        "  --suffix natasha-32k-v1",
        KIMI_STARTED,
    ),
    (
        f"# Только валидация\n{KIMI_SCRIPT} --validate-only\n\n# Только загрузка файла\n{KIMI_SCRIPT} --upload-only\n\n"
        f"# Мониторинг существующего job\n{KIMI_SCRIPT} --monitor ftjob-xxx\n\n# Тестирование fine-tuned модели\n"
        f"{KIMI_SCRIPT} --test {KIMI_MODEL}\n\n# Список всех jobs\n{KIMI_SCRIPT} --list-jobs",
        (
            *VALID,
            "✅ File uploaded successfully to Kimi",
            "   File ID: file-",
            "Status: succeeded",
            *TESTED,
            "ftjob-1  ",
        ),
    ),
    (f"# Тестирование конкретной модели\n{KIMI_SCRIPT} \\\n  --test {KIMI_MODEL}", TESTED),
    (chat(KIMI_MODEL, KIMI_CLIENT), ("Ответ на: Я чувству",)),
    (
        "# Проверить, что KIMI_API_KEY установлен\necho $KIMI_API_KEY\n\n# Добавить в .env\nKIMI_API_KEY=sk-...",
        ("sk-of-the-test",),
    ),
    (
        f"# Переvalidировать файл\n{KIMI_SCRIPT} --validate-only\n\n# Проверить формат JSONL\n"
        f"head -1 {ROWS} | python -m json.tool",
        (*VALID, '    "messages": ['),
    ),
    (
        f"# Валидация\n{KIMI_SCRIPT} --validate-only\n\n# Загрузка\n{KIMI_SCRIPT} --upload-only\n\n"
        f"# Запуск с минимальными параметрами\n{KIMI_SCRIPT} \\\n  --epochs 1 \\\n  --suffix natasha-test",
        (*VALID, *KIMI_STARTED),
    ),
    (
        f"{KIMI_SCRIPT} \\\n  --model moonshot-v1-8k \\\n  --epochs 3 \\\n  --learning-rate 0.1 \\\n"
        "  --suffix natasha-prod-v1",
        KIMI_STARTED,
    ),
    (
        f"{KIMI_SCRIPT} \\\n  --model moonshot-v1-32k \\\n  --epochs 3 \\\n  --learning-rate 0.1 \\\n"
        "  --suffix natasha-32k-v1",
        KIMI_STARTED,
    ),
    (
        f"# Получить список всех jobs\n{KIMI_SCRIPT} --list-jobs\n\n# Мониторить конкретный job\n"
        f"{KIMI_SCRIPT} --monitor ftjob-xxx",
        ("ftjob-1  ", "Status: succeeded"),
    ),
    (f"{KIMI_SCRIPT} \\\n  --test {KIMI_MODEL}", TESTED),
    (
        f"""from openai import OpenAI

# OpenAI
client_openai = OpenAI(api_key="sk-...")

# Kimi (просто меняем base_url)
client_kimi = OpenAI({KIMI_CLIENT})

# Остальной код идентичен!
response = client_kimi.chat.completions.create(
    model="moonshot-v1-8k",
    messages=[{{"role": "user", "content": "..."}}]
)
""",
        (),
    ),
]

VERTEX_SCRIPT = (
    "python scripts/analysis/upload_and_finetune_vertex.py \\\n  --project-id YOUR_PROJECT_ID \\\n"
    "  --bucket natasha-finetuning-bucket"
)
VERTEX = [
    (
        "gcloud services enable aiplatform.googleapis.com\ngcloud services enable storage-api.googleapis.com",
        ("gcloud services enable storage-api.googleapis.com",),
    ),
    ("gsutil mb gs://natasha-finetuning-bucket", ()),
    (
        "# Windows\nchoco install google-cloud-sdk\n\n# macOS\nbrew install --cask google-cloud-sdk\n\n"
        "# Linux\ncurl https://sdk.cloud.google.com | bash",
        (),
    ),
    ("gcloud auth application-default login", ()),
    (
        f"{VERTEX_SCRIPT} \\\n  --model gemini-1.5-pro-002 \\\n  --epochs 3 \\\n  --batch-size 4 \\\n"
        "  --learning-rate 0.001",
        (*VALID, "✅ Fine-tuning job created successfully", "   Status: queued", *TESTED),
    ),
    (
        f"# Только валидация\n{VERTEX_SCRIPT} \\\n  --validate-only\n\n# Только загрузка\n{VERTEX_SCRIPT} \\\n"
        f"  --upload-only\n\n# Мониторинг существующего job\n{VERTEX_SCRIPT} \\\n"
        "  --monitor projects/YOUR_PROJECT_ID/locations/us-central1/pipelineJobs/JOB_ID",
        (*VALID, "✅ File uploaded successfully", "Status: succeeded"),
    ),
    (
        "gcloud ai custom-jobs list --region=us-central1\ngcloud ai custom-jobs describe JOB_ID --region=us-central1",
        (),
    ),
    ("gcloud services enable aiplatform.googleapis.com", ()),
]

DIALOGUES = "data/natasha_dialogs_dataset_20251125_153356.json"
DATASET = [
    ("openai api fine_tunes.prepare_data -f natasha_finetuning_20251125_153356.jsonl", ()),
    (
        "openai api fine_tunes.create \\\n  -t natasha_finetuning_20251125_153356.jsonl \\\n  -m gpt-3.5-turbo \\\n"
        "  --n_epochs 3 \\\n  --learning_rate_multiplier 0.1",
        (),
    ),
    ("openai api fine_tunes.follow -i <job_id>", ()),
    (chat(OPENAI_MODEL), ("Ответ на: Я чувству",)),
    (
        "python scripts/analysis/collect_natasha_dialogs_dataset.py --limit 2000 --sample 5",
        (
            "wrote data/natasha_finetuning_",
            "wrote data/natasha_dialogs_dataset_",
            "Dialogue 1, ",
            "persona: Да, сижу дома",
        ),
    ),
    (
        f"python scripts/analysis/analyze_natasha_dataset.py --input {DIALOGUES}",
        (
            "Lengths",
            "Channels",
            "wrote data/dataset_analysis_natasha_dialogs_dataset_20251125_153356/dataset_stats.json",
        ),
    ),
]

GENERATOR = "python3 simple_finetuning_generator.py"
WRITTEN = (
    "medical_finetune_train.jsonl",
    "medical_finetune_val.jsonl",
    "medical_finetune_all.jsonl",
    "dataset_stats.json",
    "llamafactory_config.json",
)
MEDICAL = [
    (
        f"# 1. 生成更多医学领域数据\n{GENERATOR}\n\n# 2. 扩展到1000+样本\n# 修改脚本中的limit参数，处理更多原始数据",
        ("rows: train 22, val 6, all 28", *(f"wrote finetuning_output/{name}" for name in WRITTEN)),
    ),
    (
        "# 1. 安装LLaMA-Factory\ngit clone https://github.com/hiyouga/LLaMA-Factory.git\ncd LLaMA-Factory\n"
        "pip install -r requirements.txt\n\n# 2. 配置训练环境\n# 准备GPU环境，配置CUDA",
        (),
    ),
    ("# 1. 启动训练\nllamafactory-cli train llamafactory_config.json\n\n# 2. 监控训练过程", ()),
]

GUIDES = {"OpenAI": OPENAI, "Kimi": KIMI, "Vertex AI": VERTEX, "data set": DATASET, "medical": MEDICAL}
FOREIGN = ("pip", "gcloud", "gsutil", "choco", "brew", "curl", "openai", "git", "llamafactory-cli")
"""Programs of others, for which stand-ins answer: they print how they were called."""
